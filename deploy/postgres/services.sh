#!/bin/sh
# Creates a role and a database for each service; runs once, on an empty volume.
# A role can connect only to its own database.
set -eu

for service in user concert reservation payment point notification data-platform audit; do
    upper=$(printf %s "$service" | tr a-z- A-Z_)
    name=onsale_$(printf %s "$service" | tr - _)
    eval "password=\${ONSALE_${upper}_DATABASE_PASSWORD:?}"
    psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$name" --set password="$password" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke connect, temporary on database :"name" from public;
SQL
done

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --command 'revoke connect on database postgres, template1 from public'
