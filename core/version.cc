#include "core/version.h"

namespace sheaf {

const char* version() { return SHEAF_VERSION_STRING; }

}  // namespace sheaf
