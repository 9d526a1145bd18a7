"""The certificate authority: tokens, issuing, the ledger of certificates, revocation."""
