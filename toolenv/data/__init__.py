"""Tasks and passages: loaders, one file a source, and what is bundled."""
