#include "objstore/arena.h"
