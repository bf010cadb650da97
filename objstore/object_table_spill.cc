#include "objstore/object_table.h"
