"""SGLang's requests and errors, as the emulated worker reads and writes them."""
