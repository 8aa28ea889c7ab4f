//! AES-128 in CBC mode with the padding of PKCS #7: how HLS encrypts whole segments (RFC 8216bis, 4.4.4.4).

use aes::Aes128;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};

/// Decrypts a segment; [`None`] if it was not encrypted with this key.
pub(super) fn decrypt(key: &[u8; 16], iv: &[u8; 16], mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let length = cbc::Decryptor::<Aes128>::new(key.into(), iv.into()).decrypt_padded::<Pkcs7>(&mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'Touchline reads HLS itself' | openssl enc -aes-128-cbc -K 000102030405060708090a0b0c0d0e0f -iv 2a000000000000000000000000000000 | xxd -p`
    #[test]
    fn the_output_of_openssl_is_decrypted() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let mut iv = [0; 16];
        iv[0] = 0x2a;
        let hex = "53b42ad3d4073f644e05fe9a65b15f7fa35a6eb635bf50dee3cd0adae8dd6276";
        let bytes =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect::<Vec<_>>();
        assert_eq!(decrypt(&key, &iv, bytes.clone()).unwrap(), b"Touchline reads HLS itself");
        assert_eq!(decrypt(&[9; 16], &iv, bytes.clone()), None);
        assert_eq!(decrypt(&key, &iv, bytes[1..].to_vec()), None);
        assert_eq!(decrypt(&key, &iv, Vec::new()), None);
    }
}
