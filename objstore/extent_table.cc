#include "objstore/extent_table.h"
