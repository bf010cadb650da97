#include "objstore/spill.h"
