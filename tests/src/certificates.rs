//! Authorities and certificates for tests, made by the `openssl` command in a folder of the test's.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority: `NAME.crt` and `NAME.key` in its folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

/// What a certificate is to say.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The subject, as `/CN=boiler-3`.
    pub subject: &'a str,
    /// Lines of extensions in openssl's configuration language.
    pub extensions: &'a str,
    /// For how many days it is good, from now; negative: it ran out so long ago.
    pub days: i32,
}

/// The gateway's own, for this host.
pub const SERVER: Wish<'static> = Wish {
    subject: "/CN=gateway",
    extensions: "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
    days: 90,
};

/// A device's.
pub const DEVICE: Wish<'static> =
    Wish { subject: "/CN=boiler-3", extensions: "extendedKeyUsage=clientAuth\n", days: 90 };

/// Certificates that let no device in; see [`Authority::issue_bad`].
pub const BAD: [&str; 10] = [
    "wrong-authority",
    "expired",
    "for-servers",
    "an-authority",
    "for-many",
    "nameless",
    "two-names",
    "control-character",
    "no-text",
    "revoked",
];

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When `openssl` is not there or refuses.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        let args = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.crt -days 900 -subj /CN={name}"
        );
        openssl(folder, &args);
        std::fs::write(folder.join(format!("{name}.index")), "").expect("the authority's index");
        std::fs::write(folder.join(format!("{name}.number")), "01\n").expect("the number of its next list");
        std::fs::write(
            folder.join(format!("{name}.cnf")),
            format!(
                "[ca]\ndefault_ca=d\n[d]\ndatabase={name}.index\ndefault_md=sha256\ndefault_crl_days=30\n\
                 crlnumber={name}.number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"
            ),
        )
        .expect("the authority's configuration");
        Self { folder: folder.to_owned(), name: name.to_owned() }
    }

    /// Issues `FILE.crt` with a new key in `FILE.key`.
    ///
    /// # Panics
    /// When `openssl` refuses.
    pub fn issue(&self, file: &str, wish: Wish<'_>) {
        self.request(file, &format!("-utf8 -subj {}", wish.subject));
        self.sign(file, wish);
    }

    /// Issues all of [`BAD`], and the list of what is revoked: who shows them names the device of [`DEVICE`] or nobody, and none
    /// is in order.
    ///
    /// # Panics
    /// When `openssl` refuses.
    pub fn issue_bad(&self) {
        Self::new(&self.folder, "another").issue("wrong-authority", DEVICE);
        self.issue("expired", Wish { days: -1, ..DEVICE });
        self.issue("for-servers", Wish { extensions: "extendedKeyUsage=serverAuth\n", ..DEVICE });
        self.issue("an-authority", Wish { extensions: "basicConstraints=critical,CA:TRUE\n", ..DEVICE });
        self.issue("for-many", Wish { extensions: "subjectAltName=DNS:*.example\n", ..DEVICE });
        self.issue("nameless", Wish { subject: "/O=plant", ..DEVICE });
        self.issue("two-names", Wish { subject: "/CN=boiler-3/CN=boiler-4", ..DEVICE });
        self.issue("control-character", Wish { subject: "/CN=boiler\u{1}3\u{1B}[2J", ..DEVICE });
        // A byte that no UTF-8 has; `openssl` puts it into a string of another kind as it is.
        let name = b"[req]\nprompt=no\nstring_mask=nombstr\ndistinguished_name=n\n[n]\nCN=boiler\xFF3\n";
        std::fs::write(self.folder.join("no-text.cnf"), name).expect("the request's configuration");
        self.request("no-text", "-config no-text.cnf");
        self.sign("no-text", DEVICE);
        self.issue("revoked", DEVICE);
        self.revoke(&["revoked"]);
    }

    /// A new key, and a request for a certificate with it.
    fn request(&self, file: &str, subject: &str) {
        openssl(
            &self.folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {file}.key -out {file}.csr {subject}"
            ),
        );
    }

    fn sign(&self, file: &str, wish: Wish<'_>) {
        let Self { folder, name } = self;
        std::fs::write(folder.join(format!("{file}.ext")), wish.extensions).expect("the extensions");
        let days = wish.days;
        openssl(
            folder,
            &format!(
                "x509 -req -in {file}.csr -CA {name}.crt -CAkey {name}.key -CAcreateserial -days {days} -extfile {file}.ext -out {file}.crt"
            ),
        );
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(folder.join(format!("{file}.key")), private).expect("the key's permissions");
    }

    /// An authority that was made before.
    #[must_use]
    pub fn known(folder: &Path, name: &str) -> Self {
        Self { folder: folder.to_owned(), name: name.to_owned() }
    }

    /// Revokes these certificates, and writes the list to `NAME.crl`.
    ///
    /// # Panics
    /// When `openssl` refuses.
    pub fn revoke(&self, files: &[&str]) {
        let Self { folder, name } = self;
        for file in files {
            openssl(
                folder,
                &format!("ca -config {name}.cnf -keyfile {name}.key -cert {name}.crt -revoke {file}.crt"),
            );
        }
        openssl(
            folder,
            &format!("ca -config {name}.cnf -keyfile {name}.key -cert {name}.crt -gencrl -out {name}.crl"),
        );
    }
}

/// Runs `openssl` in a folder; no argument has a space in it.
///
/// # Panics
/// When it is not there or fails.
pub fn openssl(folder: &Path, arguments: &str) {
    let output =
        Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().expect("openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
