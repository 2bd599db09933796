"""Stage 2: the pretrained video encoder learns to tell real from forged faces, and goes on predicting its teacher."""
