#!/usr/bin/env bash
# Debian's Chromium for the browser tests, where it is missing and can be installed without asking anybody.
# Does nothing on a machine that has a Chromium, and nothing on one without apt or root: the tests then say what they miss.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit 0
done
[ -n "${CHROMIUM:-}" ] && exit 0
command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || exit 0

echo "Installing chromium for the browser tests" >&2
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } >/dev/null; then
    echo "chromium could not be installed; the browser tests say what they miss" >&2
fi
