#include "objstore/checksum.h"
