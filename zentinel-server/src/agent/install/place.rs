//! The machine, or the image, that is installed on.

use super::below;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use zentinel_core::{Error, Result};

/// Where programs go.
const PROGRAMS: &str = "/usr/local/bin";

/// A root directory and the user that owns what the agent needs.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    user: String,
    dry_run: bool,
}

/// Who owns a file: a user and a group.
type Owner = (u32, u32);

impl Place {
    /// Looks whether installing there is possible at all.
    ///
    /// # Errors
    /// `Forbidden` on this machine without being root, `Invalid` for a root or user that cannot be.
    pub(super) fn new(root: &Path, user: &str, dry_run: bool) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if !user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            || user.len() > 31
            || !user.chars().all(plain)
        {
            return Err(Error::invalid_field("user", "is not a name for a system user, such as zentinel"));
        }
        let root = std::fs::canonicalize(root)
            .map_err(|error| Error::invalid_field("root", format!("{}: {error}", root.display())))?;
        let place = Self { root, user: user.to_owned(), dry_run };
        if place.is_this_machine() && !dry_run && !rustix::process::geteuid().is_root() {
            return Err(Error::forbidden("only root can install a service on this machine")
                .with_hint("run it with sudo, or look at it first with --dry-run"));
        }
        Ok(place)
    }

    fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    fn say(&self, changed: bool, what: &str) -> String {
        let verb = match (changed, self.dry_run) {
            (true, false) => "wrote",
            (true, true) => "would write",
            (false, _) => "unchanged",
        };
        format!("{verb}  {what}")
    }

    /// Puts the running program where the unit looks for it.
    pub(super) fn program(&self, name: &str) -> Result<String> {
        let own = std::env::current_exe()
            .map_err(|error| Error::internal("the path of this program is unknown").with_source(error))?;
        let path = format!("{PROGRAMS}/{name}");
        let target = below(&self.root, &path);
        if std::fs::canonicalize(&target).ok().as_deref() == Some(&own) {
            return Ok(self.say(false, &path));
        }
        let bytes = std::fs::read(&own).map_err(|error| at(&own, &error))?;
        self.directory(PROGRAMS, 0o755, false)?;
        self.write(&path, &bytes, 0o755, None)
    }

    /// Writes a text file; `users` says whether it belongs to the agent's user. Otherwise it is
    /// root's, and readable for the agent's group when its mode says so.
    pub(super) fn text(&self, path: &str, text: &str, mode: u32, users: bool) -> Result<String> {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(parent, 0o755, false)?;
        }
        let owner = match (users, mode & 0o004) {
            (true, _) => self.owner()?,
            (false, 0) => self.owner()?.map(|(_, group)| (self.root_user(), group)),
            (false, _) => None,
        };
        self.write(path, text.as_bytes(), mode, owner)
    }

    /// Who owns files of nobody in particular: root, or whoever prepares an image.
    fn root_user(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32, owner: Option<Owner>) -> Result<String> {
        let target = below(&self.root, path);
        let is = std::fs::read(&target).ok();
        let meta = std::fs::metadata(&target).ok();
        let same_owner = owner.is_none() || meta.as_ref().map(|meta| (meta.uid(), meta.gid())) == owner;
        let same_mode = meta.is_some_and(|meta| meta.permissions().mode() & 0o7777 == mode);
        if is.as_deref() == Some(bytes) && same_owner && same_mode {
            return Ok(self.say(false, path));
        }
        if !self.dry_run {
            replace(&target, bytes, mode, owner).map_err(|error| at(&target, &error))?;
        }
        Ok(self.say(true, path))
    }

    /// Makes a directory, and the ones above it; one that is there keeps its mode and owner.
    pub(super) fn directory(&self, path: &str, mode: u32, users: bool) -> Result<String> {
        let target = below(&self.root, path);
        if target.is_dir() {
            return Ok(self.say(false, path));
        }
        if !self.dry_run {
            let parent = target.parent().unwrap_or(&self.root);
            std::fs::create_dir_all(parent).map_err(|error| at(parent, &error))?;
            let made = DirBuilder::new().mode(mode).create(&target).and_then(|()| {
                // Whatever the umask says.
                std::fs::set_permissions(&target, Permissions::from_mode(mode))
            });
            made.map_err(|error| at(&target, &error))?;
            if users && let Some((user, group)) = self.owner()? {
                chown(&target, Some(user), Some(group)).map_err(|error| at(&target, &error))?;
            }
        }
        Ok(self.say(true, path))
    }

    /// The agent's user by the root's own `passwd`; `None` only while nothing is done.
    fn owner(&self) -> Result<Option<Owner>> {
        let found = self.known_user();
        if found.is_none() && !self.dry_run {
            return Err(self.no_user("it is gone"));
        }
        Ok(found)
    }

    fn no_user(&self, why: &str) -> Error {
        let passwd = below(&self.root, "/etc/passwd");
        Error::not_found(format!("there is no user {} in {} ({why})", self.user, passwd.display())).with_hint(
            format!(
                "useradd --system --home-dir /var/lib/zentinel-agent --shell /usr/sbin/nologin {}",
                self.user
            ),
        )
    }

    fn known_user(&self) -> Option<Owner> {
        let passwd = std::fs::read_to_string(below(&self.root, "/etc/passwd")).ok()?;
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, user, group) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (name == self.user).then_some((user.parse().ok()?, group.parse().ok()?))
        })
    }

    /// Makes the user when it is missing, by the file that describes it.
    ///
    /// # Errors
    /// `NotFound` naming the command to use instead, without `systemd-sysusers`.
    pub(super) fn make_user(&self, described: &str) -> Result<Option<String>> {
        if self.known_user().is_some() {
            return Ok(None);
        }
        if !self.dry_run {
            let mut command = Command::new("systemd-sysusers");
            if !self.is_this_machine() {
                command.arg(format!("--root={}", self.root.display()));
            }
            // The file is named by its full path, also below another root.
            let why = match command.arg(below(&self.root, described)).output() {
                Ok(made) if made.status.success() => "systemd-sysusers did not make it".to_owned(),
                Ok(made) => format!("systemd-sysusers: {}", String::from_utf8_lossy(&made.stderr).trim()),
                Err(error) => format!("systemd-sysusers: {error}"),
            };
            if self.known_user().is_none() {
                return Err(self.no_user(&why));
            }
        }
        Ok(Some(self.say(true, &format!("system user {}", self.user))))
    }

    /// Lets systemd read the unit, on this machine.
    pub(super) fn reload_units(&self) -> Result<Option<String>> {
        if !self.is_this_machine() || self.dry_run || !Path::new("/run/systemd/system").is_dir() {
            return Ok(None);
        }
        let reloaded = Command::new("systemctl").arg("daemon-reload").status();
        if !reloaded.is_ok_and(|status| status.success()) {
            return Err(Error::unavailable("`systemctl daemon-reload` failed")
                .with_hint("everything is written; run it yourself and see what it says"));
        }
        Ok(Some("systemd has read the unit".to_owned()))
    }
}

/// Replaces a file as a whole; nobody sees it half-written or with another mode.
fn replace(target: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> std::io::Result<()> {
    let mut draft = target.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    if let Err(error) = std::fs::remove_file(&draft)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    if let Some((user, group)) = owner {
        chown(&draft, Some(user), Some(group))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    std::fs::rename(&draft, target)
}

fn at(path: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display()))
}
