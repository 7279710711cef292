"""The same requests to the router and to one plain SGLang server, and the reasons for replies that differ."""
