# shellcheck shell=bash
# A certificate authority of one's own per state: server certificates for localhost and 127.0.0.1 (not for 127.0.0.2,
# where the servers listen too: a host name mismatch to test with), a client certificate, and a second authority that
# signed nothing. Needs STATE.

has_tls() { [[ -s $STATE/tls/client.crt ]]; }

make_certificates() {
  local work=$STATE/tls.new
  ! has_tls || return 0
  command -v openssl >/dev/null || {
    say tls "openssl is missing: the servers run without TLS"
    return 0
  }
  rm -rf "$work" "$STATE/tls"
  mkdir -p "$work"
  make_authority "$work/ca" walrelay-dev-ca
  make_authority "$work/stranger-ca" walrelay-dev-stranger
  make_certificate "$work" server localhost serverAuth "subjectAltName=DNS:localhost,IP:127.0.0.1"
  make_certificate "$work" client walrelay_cert clientAuth "subjectAltName=DNS:walrelay_cert"
  mv "$work" "$STATE/tls"
}

make_authority() {
  openssl req -x509 -config <(
    printf '%s\n' '[req]' 'distinguished_name=dn' 'x509_extensions=ca' '[dn]' '[ca]' \
      'basicConstraints=critical,CA:TRUE' 'keyUsage=critical,keyCertSign,cRLSign' 'subjectKeyIdentifier=hash'
  ) -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$2" \
    -keyout "$1.key" -out "$1.crt" 2>/dev/null
}

# make_certificate FOLDER NAME COMMON_NAME USAGE EXTENSION
make_certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$3" \
    -keyout "$1/$2.key" -out "$1/$2.csr" 2>/dev/null
  openssl x509 -req -in "$1/$2.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial -days 3650 -out "$1/$2.crt" \
    -extfile <(printf '%s\n' "$5" "extendedKeyUsage=$4" 'basicConstraints=CA:FALSE' \
      'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid') 2>/dev/null
  chmod 600 "$1/$2.key"
}
