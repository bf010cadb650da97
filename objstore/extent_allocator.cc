#include "objstore/extent_allocator.h"
