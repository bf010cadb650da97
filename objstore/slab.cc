#include "objstore/slab.h"
