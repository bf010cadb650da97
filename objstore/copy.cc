#include "objstore/copy.h"
