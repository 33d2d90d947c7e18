#!/bin/sh
# Creates a role and a database for each service that has a password in the environment; runs
# once, on an empty volume. A role can connect only to its own database.
set -eu

for variable in $(env | sed -n 's/^\(ONSALE_[A-Z_]*_DATABASE_PASSWORD\)=.*/\1/p'); do
    service=${variable#ONSALE_}
    name=onsale_$(printf %s "${service%_DATABASE_PASSWORD}" | tr A-Z a-z)
    eval "password=\${$variable:?}"
    psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set name="$name" --set password="$password" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke connect, temporary on database :"name" from public;
SQL
done

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --command 'revoke connect on database postgres, template1 from public'
