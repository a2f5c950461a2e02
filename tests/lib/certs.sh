#!/usr/bin/env bash
# Certificates for tests, into a directory: tests/lib/certs.sh DIR
#   ca.pem            who signs: server.pem, server2.pem (the next one, for reloads; both for localhost and 127.0.0.1), client.pem (CN=app-1, O=shop)
#                     node-1.pem to node-3.pem, nodes of a cluster; expired.pem, a node-3 whose day is over; client-only.pem, a node-3 that may not be a server
#   other-ca.pem      a stranger's: other.pem, other-node-3.pem
# A key next to each: NAME.key
set -euo pipefail
cd "$1"
ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.pem" -days 30 -subj "/CN=$1" -addext basicConstraints=critical,CA:true; }
leaf() { # NAME SUBJECT CA EXTENSIONS [DAYS]
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
  openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days "${5:-30}" -out "$1.pem" -extfile <(printf '%s\n' "$4")
}
{
  ca ca; ca other-ca
  leaf server /CN=server-1 ca 'subjectAltName=DNS:localhost,IP:127.0.0.1'
  leaf server2 /CN=server-2 ca 'subjectAltName=DNS:localhost,IP:127.0.0.1'
  leaf client /O=shop/CN=app-1 ca 'extendedKeyUsage=clientAuth'
  leaf other /CN=stranger other-ca 'subjectAltName=DNS:localhost'
  for n in 1 2 3; do leaf node-$n "/O=shop/CN=node $n" ca "subjectAltName=DNS:node-$n"; done
  leaf expired '/CN=node 3' ca 'subjectAltName=DNS:node-3' -1
  leaf client-only '/CN=node 3' ca $'subjectAltName=DNS:node-3\nextendedKeyUsage=clientAuth'
  leaf other-node-3 '/CN=node 3' other-ca 'subjectAltName=DNS:node-3'
} 2>certs.log || { cat certs.log >&2; exit 1; }
