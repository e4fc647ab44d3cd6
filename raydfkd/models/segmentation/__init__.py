"""Networks that give each pixel a class, images [B,C,H,W] to logits [B,K,H,W]; ``raydfkd.models.catalog`` has their names."""
