"""The contract as a document: what the routes say of themselves, completed and given examples."""
