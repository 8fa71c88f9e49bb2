"""Language models: transformers ones, explicit tables, and how they are loaded."""
