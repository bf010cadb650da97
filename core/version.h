// The version of this library, as `sheaf version` and the CMake package print it.
#pragma once

namespace sheaf {

const char* version();

}  // namespace sheaf
