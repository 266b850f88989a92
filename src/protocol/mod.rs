//! The wire, sans-I/O: HTTP/1.1 heads and RFC 6455 WebSocket, server role.
