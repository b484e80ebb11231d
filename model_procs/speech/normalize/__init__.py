"""Turn a text as people and language models write it into what is said. Used in speech workers."""
