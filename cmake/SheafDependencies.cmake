# Required libraries (Debian package names in the messages) and optional modules.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)       # libfmt-dev
find_package(spdlog REQUIRED)    # libspdlog-dev
find_package(SQLite3 REQUIRED)   # libsqlite3-dev
find_package(OpenSSL 3 REQUIRED) # libssl-dev
