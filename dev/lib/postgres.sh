# shellcheck shell=bash
# Part kind: a PostgreSQL server (source, target). PostgreSQL refuses to run as root: then its data belongs to user
# postgres, and lies below /var/tmp when that user cannot reach the state folder. Needs STATE.

PARTS_PASSWORD=walrelay

# Servers from Maven, by major version.
declare -A UNPACKED=([14]=14.23.0 [15]=15.18.0 [16]=16.14.0 [17]=17.10.0 [18]=18.4.0)

# The folder with initdb and postgres: PARTS_PG_BIN, or version PARTS_PG_VERSION (default 15) from the system's packages or
# unpacked, or what there is.
postgres_bin() {
  local bin
  if [[ -n ${PARTS_PG_BIN:-} ]]; then
    echo "$PARTS_PG_BIN"
    return
  fi
  for bin in "/usr/lib/postgresql/${PARTS_PG_VERSION:-15}/bin" "/usr/pgsql-${PARTS_PG_VERSION:-15}/bin"; do
    [[ ! -x $bin/postgres ]] || { echo "$bin" && return; }
  done
  bin=$(postgres_unpacked)/bin
  [[ ! -x $bin/postgres ]] || { echo "$bin" && return; }
  [[ -z ${PARTS_PG_VERSION:-} ]] || return 1
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -V | tail -n 1)
  [[ -x $bin/postgres ]] && echo "$bin"
}

# Where version PARTS_PG_VERSION is unpacked, where user postgres can reach it.
postgres_unpacked() {
  local root=$CACHE
  ((EUID != 0)) || root=/var/tmp
  echo "$root/walrelay-dev-postgres-${UNPACKED[${PARTS_PG_VERSION:-15}]:-none}"
}

postgres_require() {
  command -v openssl >/dev/null || ((EUID != 0)) || require openssl openssl
  if [[ -n ${PARTS_PG_VERSION:-} ]] && ! postgres_is_packaged "$PARTS_PG_VERSION"; then
    # The owner of the clusters, and psql.
    { command -v psql && id postgres; } >/dev/null 2>&1 || PARTS_PG_VERSION='' postgres_require
    postgres_bin >/dev/null || require mvn maven
    postgres_bin >/dev/null || require xz xz-utils
    return
  fi
  postgres_bin >/dev/null && return
  local package=postgresql${PARTS_PG_VERSION:+-$PARTS_PG_VERSION}
  if ! can_install; then
    install_packages PostgreSQL "$package"
    return
  fi
  install_packages "PostgreSQL's packaging" postgresql-common
  without_main_cluster install_packages PostgreSQL "$package"
  postgres_bin >/dev/null || die "PostgreSQL ${PARTS_PG_VERSION:-} is not in /usr/lib/postgresql" \
    "Set PARTS_PG_BIN to the folder that holds initdb and postgres."
}

# Debian's package makes and starts a cluster on port 5432 unless told not to; the setting is put back afterwards.
without_main_cluster() {
  local setting=/etc/postgresql-common/createcluster.conf
  cp -p "$setting" "$setting.walrelay"
  echo 'create_main_cluster = false' >>"$setting"
  local failed=0
  ("$@") || failed=1
  mv "$setting.walrelay" "$setting"
  ((failed == 0)) || exit 1
}

# Whether the system's packages have a major version, or have installed it.
postgres_is_packaged() {
  [[ -x /usr/lib/postgresql/$1/bin/postgres || -x /usr/pgsql-$1/bin/postgres ]] && return
  can_install && apt-cache show "postgresql-$1" >/dev/null 2>&1
}

postgres_prepare() {
  postgres_bin >/dev/null || postgres_unpack
}

postgres_unpack() {
  local version=${UNPACKED[$PARTS_PG_VERSION]:-} goal work
  [[ -n $version ]] || die "there is no PostgreSQL $PARTS_PG_VERSION to unpack" \
    "Set PARTS_PG_VERSION to one of ${!UNPACKED[*]}, or PARTS_PG_BIN to the folder that holds initdb and postgres."
  goal=$(postgres_unpacked)
  mkdir -p "$CACHE"
  (
    exec 8>"$CACHE/postgres.lock"
    flock 8
    [[ ! -d $goal ]] || exit 0
    work=$(mktemp -d "$CACHE/building-postgres.XXXXXX")
    cp -r "$DEV/postgres/." "$work"
    run_maven postgres "$work" "-Dpostgres.version=$version" || exit 1
    rm -rf "$goal".new
    mkdir -m 755 "$goal".new
    tar --no-same-owner -xJf "$work"/target/archive/*.txz -C "$goal".new && mv "$goal".new "$goal"
    rm -rf "$work"
  )
}

# What runs a command as the user that owns the data.
AS_POSTGRES=()
((EUID != 0)) || AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --clear-groups)

as_postgres() { env -C / "${AS_POSTGRES[@]}" "$@"; }

# The folder below which this state's clusters lie.
postgres_root() { cat "$STATE/postgres-root"; }
postgres_data() { echo "$(postgres_root)/$1"; }

postgres_choose_root() {
  [[ ! -s $STATE/postgres-root || ! -d $(postgres_root) ]] || return 0
  local root=$STATE/postgres
  mkdir -p "$root"
  if ((EUID == 0)); then
    chown postgres:postgres "$root"
    as_postgres test -w "$root" || {
      rmdir "$root"
      root=$(mktemp -d /var/tmp/walrelay-dev.XXXXXX)
      chown postgres:postgres "$root"
    }
  fi
  echo "$root" >"$STATE/postgres-root"
}

postgres_start() {
  local part=$1 data bin
  bin=$(postgres_bin)
  data=$(postgres_data "$part")
  [[ -d $data ]] || postgres_create "$part" || return 1
  postgres_configure "$part"
  # Backends outlive a postmaster that was killed by a moment, and keep its shared memory: a new one would refuse.
  local deadline=$(($(now_ms) + 10000))
  while [[ -n $(postgres_pids "$part") ]] && (($(now_ms) < deadline)); do sleep 0.05; done
  # shellcheck disable=SC2046 # a list of process ids
  signal_all KILL $(postgres_pids "$part")
  # A dead postmaster that nobody has reaped yet still counts as running for this file; none of its processes is left.
  as_postgres rm -f "$data/postmaster.pid"
  spawn "$part" "${AS_POSTGRES[@]}" "$bin/postgres" -D "$data"
  await_answer "$part" 180 postgres_answers "$part"
}

# With PARTS_SOURCE_IMAGE or PARTS_TARGET_IMAGE, the data folder of a server that is stopped, a part begins as a stand-by with its
# data; primary_conninfo is given by the part's settings.
postgres_create() {
  local part=$1 data new log image=PARTS_${1^^}_IMAGE fill=(postgres_fill)
  [[ -z ${!image:-} ]] || fill=(postgres_copy "${!image}")
  data=$(postgres_data "$part") new=$(postgres_data "$part").new log=$(log_file "$part")
  mkdir -p "$STATE/log"
  as_postgres rm -rf "$new"
  if ! "${fill[@]}" "$new" >>"$log" 2>&1; then
    explain_failure "$part" "the cluster could not be created"
    return 1
  fi
  as_postgres mv "$new" "$data"
}

postgres_fill() {
  local data=$1 bin
  bin=$(postgres_bin)
  as_postgres "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync &&
    as_postgres tee -a "$data/postgresql.conf" <<<"include 'walrelay.conf'" &&
    as_postgres tee "$data/walrelay.conf" </dev/null &&
    postgres_roles | as_postgres "$bin/postgres" --single -D "$data" postgres
}

# postgres_copy IMAGE FOLDER
postgres_copy() { as_postgres cp -a "$1" "$2" && as_postgres touch "$2/standby.signal"; }

# One role per way to log in (see postgres_access); single-user mode reads one statement per line.
postgres_roles() {
  local role
  for role in walrelay walrelay_clear walrelay_tls walrelay_notls walrelay_cert; do
    echo "CREATE ROLE $role LOGIN REPLICATION CREATEDB PASSWORD '$PARTS_PASSWORD'"
  done
  echo "SET password_encryption = 'md5'"
  echo "CREATE ROLE walrelay_md5 LOGIN REPLICATION CREATEDB PASSWORD '$PARTS_PASSWORD'"
  echo "GRANT walrelay TO walrelay_clear, walrelay_tls, walrelay_notls, walrelay_cert, walrelay_md5"
}

postgres_access() {
  cat <<'CONF'
# type     database         user            address        method
host       all              postgres        127.0.0.0/8    trust
host       all,replication  walrelay_md5    127.0.0.0/8    md5
host       all,replication  walrelay_clear  127.0.0.0/8    password
hostssl    all,replication  walrelay_tls    127.0.0.0/8    scram-sha-256
hostnossl  all,replication  walrelay_notls  127.0.0.0/8    scram-sha-256
hostssl    all,replication  walrelay_cert   127.0.0.0/8    cert
host       all,replication  walrelay_tls,walrelay_notls,walrelay_cert  127.0.0.0/8  reject
host       all,replication  all             127.0.0.0/8    scram-sha-256
CONF
}

# Settings are written at every start: PARTS_SOURCE_CONF and PARTS_TARGET_CONF (lines, or separated by ';') come last.
postgres_configure() {
  local part=$1 data extra=PARTS_${1^^}_CONF
  data=$(postgres_data "$part")
  if has_tls; then
    for file in ca.crt server.crt server.key; do
      as_postgres tee "$data/$file" <"$STATE/tls/$file" >/dev/null
      as_postgres chmod 600 "$data/$file"
    done
  fi
  postgres_access | as_postgres tee "$data/pg_hba.conf" >/dev/null
  as_postgres tee "$data/walrelay.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1,127.0.0.2'
port = $(port_of "$part")
unix_socket_directories = ''
max_connections = 200
shared_buffers = ${PARTS_SHARED_BUFFERS:-128MB}
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
max_logical_replication_workers = 8
max_worker_processes = 24
max_wal_size = 2GB
log_line_prefix = '%m [%p] %q%u@%d %a '
$(has_tls && printf '%s\n' 'ssl = on' "ssl_ca_file = 'ca.crt'" "ssl_cert_file = 'server.crt'" "ssl_key_file = 'server.key'")
$(tr ';' '\n' <<<"${!extra:-}")
CONF
}

# Ready when the postmaster says so in its lock file, as a primary or a stand-by, and a backend answers the request for
# TLS with yes or no.
postgres_answers() {
  local lock
  mapfile -t lock 2>/dev/null <"$(postgres_data "$1")/postmaster.pid" || return 1
  [[ ${lock[0]:-} == "$(pid_of "$1")" && ${lock[7]:-} == @(ready|standby)* ]] || return 1
  [[ $(ask 127.0.0.1 "$(port_of "$1")" 1 '\0\0\0\10\4\322\26\57') == @(53|4e) ]]
}

# Every process of the cluster: they all work in its data folder. Postmaster first.
postgres_pids() {
  local data proc
  [[ -s $STATE/postgres-root ]] || return 0
  data=$(postgres_data "$1")
  pid_of "$1" || true
  for proc in /proc/[0-9]*; do
    [[ $(readlink "$proc/cwd" 2>/dev/null) == "$data" && $(readlink "$proc/exe" 2>/dev/null) == */postgres ]] || continue
    [[ -z $(start_time "${proc##*/}") ]] || echo "${proc##*/}"
  done
}

# postgres_stop PART [fast]: 'fast' leaves the data to crash recovery.
postgres_stop() {
  local pid
  pid=$(pid_of "$1") || return 0
  # A fast shutdown waits for walsenders, whose clients may hang.
  if [[ ${2:-} != fast ]]; then
    signal_all INT "$pid"
    await_end "$1" 15 && return
  fi
  signal_all QUIT "$pid"
  await_end "$1" 5 && return
  # shellcheck disable=SC2046
  signal_all KILL $(postgres_pids "$1")
  await_end "$1" 5
}

postgres_remove() {
  [[ -s $STATE/postgres-root ]] || return 0
  local root
  root=$(postgres_root)
  [[ $root != "$STATE/postgres" && $root != /var/tmp/walrelay-dev.* ]] || rm -rf "$root"
  rm -f "$STATE/postgres-root"
}

# postgres_psql PART ARGUMENT…: as superuser.
postgres_psql() {
  local part=$1 psql
  shift
  psql=$(postgres_bin)/psql
  [[ -x $psql ]] || psql=$(command -v psql) || die "psql is missing" "Run: sudo apt-get install postgresql-client"
  PGHOST=127.0.0.1 PGPORT=$(port_of "$part") PGUSER=postgres "$psql" -X "$@"
}

# postgres_init PART: creates database shop and runs postgres-init/PART/*.sql in it, once.
postgres_init() {
  local part=$1 script
  [[ $(postgres_psql "$part" -d postgres -Atc "SELECT count(*) FROM pg_database WHERE datname = 'shop'") == 0 ]] || return 0
  postgres_psql "$part" -d postgres -qc 'CREATE DATABASE shop_new' || return 1
  for script in "$DEV/../postgres-init/$part"/*.sql; do
    postgres_psql "$part" -d shop_new -q -v ON_ERROR_STOP=1 -f "$script" >/dev/null || {
      echo "$part: $script failed (message above)" >&2
      postgres_psql "$part" -d postgres -qc 'DROP DATABASE shop_new'
      return 1
    }
  done
  postgres_psql "$part" -d postgres -qc 'ALTER DATABASE shop_new RENAME TO shop'
}
