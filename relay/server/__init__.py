"""HTTP servers: listening sockets, connections, access control, and the two applications."""
