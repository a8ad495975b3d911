"""How Alembic runs the migrations: on the connection, and in the transaction, that the store hands over."""

from alembic import context

from whet.store.tables import VERSIONS, metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata,
                  version_table=VERSIONS)
context.run_migrations()
