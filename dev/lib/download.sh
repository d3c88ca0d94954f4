# shellcheck shell=bash
# Builds from Maven, kept in CACHE and shared by all states and checkouts. An entry is named after the content of its
# sources, appears by one rename when it is complete, and is never changed. Needs CACHE and DEV.

# cached NAME: folder of the build of dev/NAME, whether it exists or not.
cached() {
  local sum
  sum=$(cd "$DEV/$1" && find . -type f ! -name '*.properties' | LC_ALL=C sort | xargs cat | sha256sum)
  echo "$CACHE/$1-${sum:0:12}"
}

# build_with_maven NAME ARTIFACT…: runs dev/NAME/pom.xml and keeps these files and folders of its target folder.
build_with_maven() {
  local name=$1 goal
  shift
  goal=$(cached "$name")
  [[ ! -d $goal ]] || return 0
  mkdir -p "$CACHE"
  (
    exec 8>"$CACHE/$name.lock"
    flock -n 8 || {
      say "$name" "another run builds it; waiting"
      flock 8
    }
    [[ ! -d $goal ]] || exit 0
    rm -rf "$CACHE/building-$name".*
    work=$(mktemp -d "$CACHE/building-$name.XXXXXX")
    cp -r "$DEV/$name/." "$work"
    run_maven "$name" "$work" || exit 1
    mkdir "$work/done"
    for artifact in "$@"; do mv "$work/target/$artifact" "$work/done/"; done
    mv "$work/done" "$goal"
    rm -rf "$work"
  )
}

# run_maven NAME FOLDER [ARGUMENT…]: builds the pom.xml in that folder.
run_maven() {
  local name=$1 work=$2 repository=$CACHE/m2-$1 begun maven waited=0
  shift 2
  begun=$(now_ms)
  say "$name" "downloading and building (once; kept in $CACHE)"
  mkdir -p "$repository"
  mvn -q -B -f "$work/pom.xml" -Dmaven.repo.local="$repository" "$@" package </dev/null >"$work/maven.log" 2>&1 8>&- 9>&- &
  maven=$!
  # shellcheck disable=SC2064 # this very process
  trap "kill $maven 2>/dev/null" EXIT
  trap 'exit 1' INT TERM
  while kill -0 "$maven" 2>/dev/null; do
    sleep 0.5
    ((++waited % 8)) || say "$name" "  $(seconds_since "$begun"): $(downloaded "$repository")"
  done
  wait "$maven" || {
    tail -n 15 "$work/maven.log" | sed 's/^/  | /' >&2
    echo "$name: the Maven build failed (its last lines are above). Without network access it cannot download:" \
      "run '$SELF up' again where Maven Central can be reached; what is downloaded is kept." >&2
    return 1
  }
  trap - EXIT
  say "$name" "built in $(seconds_since "$begun"), $(downloaded "$repository")"
}

downloaded() {
  echo "$(find "$1" -name '*.jar' | wc -l) jars, $(du -sm "$1" | cut -f1) MB"
}
