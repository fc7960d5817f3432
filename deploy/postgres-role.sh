# The role of Stateline's servers: an ordinary one, since row-level security does not hold the image's superuser.
# Read by the image of PostgreSQL when it makes the database; the password is that of the superuser, from its secret.
psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "$POSTGRES_DB" <<SQL
\set password \`cat "$POSTGRES_PASSWORD_FILE"\`
CREATE ROLE stateline LOGIN PASSWORD :'password';
ALTER DATABASE :"DBNAME" OWNER TO stateline;
SQL
