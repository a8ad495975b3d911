"""The store's tables, version by version, for Alembic. A migration that was released is never changed."""
