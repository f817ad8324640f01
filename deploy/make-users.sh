#!/bin/sh
# Makes the users of Compose's server in deploy/secrets/: NAME.password for each, and users.acl with their rules.
#
# A password that exists is kept. The rules are written anew, so that they are those of this release. To replace a
# password, delete its file and run this again. The server and its clients read these files when they start.
set -eu

ROLES="worker producer viewer reader admin"
# Asks the server whether it answers, and may do nothing else.
HEALTH=health
IMAGE=sortline:cpu

# Compose mounts each file alone into a container, whose user is not the one who runs this. So every user may read the
# files, but only their owner may enter the folder.
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets

fail() {
  echo "make-users.sh: $*" >&2
  exit 1
}

# put FILE: moves FILE.new to its place, whole.
put() {
  chmod 444 "$1.new"
  mv "$1.new" "$1"
}

make_password() {
  file=secrets/$1.password
  if [ -s "$file" ]; then
    echo "kept  deploy/$file"
    return
  fi
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
  [ "$(wc -c <"$file.new")" -eq 64 ] || fail "no random numbers could be read from /dev/urandom"
  put "$file"
  echo "made  deploy/$file"
}

# acl_line ROLE: its line of the server's ACL file. A host that has only Docker asks the image.
acl_line() {
  file=secrets/$1.password
  if command -v sortline >/dev/null; then
    sortline acl "$1" --user "$1" --password-file "$file"
  elif [ -x ../.venv/bin/sortline ]; then
    ../.venv/bin/sortline acl "$1" --user "$1" --password-file "$file"
  elif command -v docker >/dev/null; then
    docker run --rm --pull never --network none --read-only --cap-drop ALL \
      --volume "$PWD/$file:/run/secrets/password:ro" \
      "$IMAGE" acl "$1" --user "$1" --password-file /run/secrets/password
  else
    fail "neither sortline nor docker is here: install one of them, or activate Sortline's virtual environment"
  fi
}

for name in $ROLES $HEALTH; do
  make_password "$name"
done

# Whoever does not log in is the user `default`: it is off, so nobody can. It keeps its rights, because Redis 7.0 reads
# its append-only file as this user, and would drop what it may not write: all jobs.
echo "user default off resetpass ~* &* +@all" >secrets/users.acl.new
for role in $ROLES; do
  line=$(acl_line "$role") || fail "the rules of $role could not be made, see above. If $IMAGE is missing, build it:" \
    "docker compose -f deploy/compose.yaml build"
  case $line in
    "user $role on #"*) echo "$line" >>secrets/users.acl.new ;;
    *) fail "\`sortline acl $role\` printed no line for an ACL file, but: $line" ;;
  esac
done
digest=$(sha256sum <secrets/$HEALTH.password | cut -d ' ' -f 1)
echo "user $HEALTH on #$digest resetkeys resetchannels -@all +ping" >>secrets/users.acl.new
put secrets/users.acl
echo "wrote deploy/secrets/users.acl with the users $ROLES $HEALTH. If the server runs, restart it and its clients:"
echo "  docker compose -f deploy/compose.yaml restart"
