"""The commands of ottoctl, a module for each noun. They read arguments, call the client, and hand what came to render or watching."""
