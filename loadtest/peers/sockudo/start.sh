#!/bin/sh
# Sockudo, in the foreground: start.sh PORT BINARY SCRATCH. One app, without limits, everything in memory.
set -eu
ulimit -n "$(ulimit -Hn)"
# It reads config/ of the directory it is started in.
binary=$2
cd "$3"

export HOST=127.0.0.1
export PORT="$1"
# Even as errors it logs each client that resets its connection, as a load generator does.
export RUST_LOG=off
export TOKIO_WORKER_THREADS=1
export CLEANUP_WORKER_THREADS=1
export SHUTDOWN_GRACE_PERIOD=0
export METRICS_ENABLED=false
export RATE_LIMITER_ENABLED=false
export ACTIVITY_TIMEOUT=25
export ADAPTER_DRIVER=local
export CACHE_DRIVER=memory
export QUEUE_DRIVER=memory
export WEBSOCKET_COMPRESSION=disabled
# It reserves room for all of them with each connection.
export WEBSOCKET_MAX_MESSAGES=5000
export WEBSOCKET_MAX_BYTES=1073741824
export WEBSOCKET_MAX_BACKPRESSURE=1073741824
export SOCKUDO_DEFAULT_APP_ID=app-id
export SOCKUDO_DEFAULT_APP_KEY=app-key
export SOCKUDO_DEFAULT_APP_SECRET=app-secret
export SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS=10000000
export SOCKUDO_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND=4000000000
export SOCKUDO_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SECOND=4000000000
export SOCKUDO_DEFAULT_APP_MAX_READ_REQUESTS_PER_SECOND=4000000000
export SOCKUDO_DEFAULT_APP_MAX_CHANNEL_NAME_LENGTH=200
export SOCKUDO_DEFAULT_APP_MAX_EVENT_PAYLOAD_IN_KB=65536
exec "$binary"
