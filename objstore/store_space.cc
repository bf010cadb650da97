#include "objstore/store.h"
