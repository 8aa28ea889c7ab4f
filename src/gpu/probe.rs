//! What this machine and this build have for a GPU, in words for a person.
