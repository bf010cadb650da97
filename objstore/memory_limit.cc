#include "objstore/memory_limit.h"
