#!/bin/sh
# Soketi, in the foreground: start.sh PORT. One app, without limits.
set -eu
ulimit -n "$(ulimit -Hn)"

export SOKETI_HOST=127.0.0.1
export SOKETI_PORT="$1"
export SOKETI_DEBUG=0
export SOKETI_METRICS_ENABLED=0
export SOKETI_SHUTDOWN_GRACE_PERIOD=0
export SOKETI_EVENT_MAX_SIZE_IN_KB=65536
export SOKETI_DEFAULT_APP_ID=app-id
export SOKETI_DEFAULT_APP_KEY=app-key
export SOKETI_DEFAULT_APP_SECRET=app-secret
export SOKETI_DEFAULT_APP_MAX_CONNS=-1
export SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC=-1
export SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC=-1
export SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC=-1
exec soketi start
