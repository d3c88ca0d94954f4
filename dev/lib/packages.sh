# shellcheck shell=bash
# Programs from the system's packages: installed when this runs as root on a Debian-like system, otherwise noted, and
# named all at once with the command to type.

missing=() missing_packages=()

# require COMMAND PACKAGE…
require() {
  local command=$1
  shift
  command -v "$command" >/dev/null || install_packages "$command" "$@"
}

can_install() { ((EUID == 0)) && command -v apt-get >/dev/null; }

# install_packages WHAT PACKAGE…
install_packages() {
  local what=$1 package
  shift
  if ! can_install; then
    [[ " ${missing[*]} " == *" $what "* ]] || missing+=("$what")
    for package in "$@"; do [[ " ${missing_packages[*]} " == *" $package "* ]] || missing_packages+=("$package"); done
    return
  fi
  say system "installing $* (for $what)"
  [[ -n ${package_lists_are_fresh:-} ]] || run_apt update
  package_lists_are_fresh=yes
  run_apt install --yes --no-install-recommends "$@"
}

# Ends the run when anything was noted as missing.
need_nothing() {
  ((${#missing[@]} > 0)) || return 0
  local what how
  what=$(printf ', %s' "${missing[@]}")
  if command -v apt-get >/dev/null; then
    how="Run: sudo apt-get install --no-install-recommends ${missing_packages[*]}"
  else
    how="Install it with your system's package manager (Debian's names: ${missing_packages[*]})."
  fi
  die "missing: ${what:2}" "$how"
}

run_apt() {
  local log
  log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null >"$log" 2>&1 8>&- 9>&- || {
    tail -n 20 "$log" >&2
    die "apt-get $* failed" "Its last lines are above; solve that, then try again."
  }
  rm -f "$log"
}
