# shellcheck shell=bash
# Programs from the system's packages: installed when this runs as root on a Debian-like system, otherwise the
# command to type is printed.

# require COMMAND PACKAGE…
require() {
  local command=$1
  shift
  command -v "$command" >/dev/null || install_packages "$command" "$@"
}

# install_packages WHAT PACKAGE…
install_packages() {
  local what=$1
  shift
  if ! command -v apt-get >/dev/null; then
    die "$what is missing" "Install it with your system's package manager (Debian's names: $*)."
  elif ((EUID != 0)); then
    die "$what is missing" "Run: sudo apt-get install --no-install-recommends $*"
  fi
  say system "installing $* (for $what)"
  [[ -n ${package_lists_are_fresh:-} ]] || run_apt update
  package_lists_are_fresh=yes
  run_apt install --yes --no-install-recommends "$@"
}

run_apt() {
  local log
  log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null >"$log" 2>&1 8>&- 9>&- || {
    tail -n 20 "$log" >&2
    die "apt-get $* failed" "Its last lines are above; solve that, then run '$SELF up' again."
  }
  rm -f "$log"
}
