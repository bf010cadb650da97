#include "objstore/pins.h"
