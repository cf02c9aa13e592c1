//! Exit codes: what scripts may rely on, and which of the engine's errors each stands for.

use std::process::ExitCode;

use icecore::error::{Error, Kind, Reason};

/// How a program of the project ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It did what was asked.
    Ok = 0,
    /// A regression, damage, or a failing seed was found.
    Found = 1,
    /// The run is not valid.
    InvalidRun = 2,
    /// Refused, to keep somebody's data safe.
    Refused = 3,
    /// The device, the system or this build cannot do it.
    Environment = 4,
    /// The call was wrong.
    Usage = 64,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// What the program was about to do with the path; a missing one is refused only where it would be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Make something new at the path.
    Create,
    /// Use what is there.
    Use,
}

/// The exit code of an engine's error.
pub fn code_of(error: &Error, intent: Intent) -> Code {
    match (error.kind(), error.reason()) {
        (_, Reason::NotFound) if intent == Intent::Create => Code::Refused,
        (_, Reason::DeviceTooSmall { .. } | Reason::CannotShrink { .. }) => Code::Refused,
        (_, Reason::SuperblockConflict) => Code::Found,
        // Another backend was chosen when the volume was made: the same call will always be refused.
        (_, Reason::NoPast { .. } | Reason::NotLinear { .. } | Reason::NoOverlays { .. }) => Code::Usage,
        (_, Reason::NoSnapshots { .. } | Reason::NoVolumes { .. } | Reason::CannotGrow { .. }) => Code::Usage,
        // The same where another program has it open and tells.
        (kind, Reason::Told { name, .. }) if name == "Os" && kind != Kind::Busy => Code::Environment,
        (_, Reason::Told { name, .. })
            if ["NoPast", "NotLinear", "NoSnapshots", "NoVolumes", "NoOverlays"].contains(&name.as_str()) =>
        {
            Code::Usage
        }
        // The system's own EINVAL says nothing about how the program was called.
        (_, Reason::Os { errno }) if *errno != libc::EBUSY => Code::Environment,
        (Kind::Denied | Kind::Busy | Kind::NotPrimary, _) => Code::Refused,
        (Kind::InvalidArgument, _) => Code::Usage,
        (Kind::Corrupt, _) => Code::Found,
        _ => Code::Environment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_refusal_has_its_code() {
        let text = String::new;
        let table = [
            (Reason::AlreadyOpen, Code::Refused),
            (Reason::Mounted { device: text(), mount_point: text() }, Code::Refused),
            (Reason::UsedAsSwap { device: text() }, Code::Refused),
            (Reason::Held { device: text(), holder: text() }, Code::Refused),
            (Reason::ForeignSignature { name: "ext4", at: 0 }, Code::Refused),
            (Reason::DestroyRequired { expected: text() }, Code::Refused),
            (Reason::DestroyMismatch { given: text(), expected: text() }, Code::Refused),
            (Reason::DeviceTooSmall { needed_bytes: 2, found_bytes: 1 }, Code::Refused),
            (Reason::PermissionDenied, Code::Refused),
            (Reason::Misaligned { offset: 1, length: 1, granularity: 512 }, Code::Usage),
            (Reason::OutOfRange { offset: 1, length: 1, size_bytes: 1 }, Code::Usage),
            (Reason::NotABlockDevice { found: "pipe" }, Code::Usage),
            (Reason::CannotShrink { was_bytes: 2, found_bytes: 1 }, Code::Refused),
            (Reason::NoPast { backend: "direct" }, Code::Usage),
            (Reason::CannotGrow { why: "no log" }, Code::Usage),
            (Reason::WrongDevice { wanted: "log", found: text() }, Code::Usage),
            (Reason::DeviceMissing { role: "volume", id: text() }, Code::Environment),
            (Reason::ObjectLost { id: text() }, Code::Environment),
            (Reason::NotLinear { backend: "log" }, Code::Usage),
            (Reason::NotPinned, Code::Usage),
            (Reason::Pinned { accepted: 1 }, Code::Refused),
            (Reason::ApplyStalled { why: "" }, Code::Environment),
            (Reason::LogFull { why: "" }, Code::Environment),
            (Reason::UnknownMoment { moment: 2, last: 1 }, Code::Usage),
            (Reason::Expired { moment: 1, earliest: 2 }, Code::Environment),
            (Reason::SnapshotLocked { name: text(), until_unix_ns: Some(1) }, Code::Refused),
            (Reason::LogDamaged { good_through: 1 }, Code::Found),
            (Reason::SuperblockDamaged, Code::Found),
            (Reason::SuperblockConflict, Code::Found),
            (Reason::NoSuperblock, Code::Environment),
            (Reason::NotSalvaged { why: "" }, Code::Environment),
            (Reason::UnknownVersion { found: 2, known: 1 }, Code::Environment),
            (Reason::UnknownFeatures { unknown: 1 }, Code::Environment),
            (Reason::UnknownBackend { found: 9 }, Code::Environment),
            (Reason::NoIoUring { why: text() }, Code::Environment),
            (Reason::NoDirectIo { filesystem: text() }, Code::Environment),
            (Reason::Poisoned, Code::Environment),
            (Reason::DeviceGone, Code::Environment),
            (Reason::Os { errno: libc::ENOSPC }, Code::Environment),
            (Reason::Os { errno: libc::EIO }, Code::Environment),
            (Reason::Os { errno: libc::EINVAL }, Code::Environment),
            (Reason::Os { errno: libc::EBUSY }, Code::Refused),
        ];
        for (reason, code) in table {
            assert_eq!(code_of(&Error::new("test", reason.clone()), Intent::Use), code, "{reason:?}");
        }
        // What an open volume can answer ends the same way when another program tells it.
        let told = [
            Reason::NoPast { backend: "direct" },
            Reason::NoSnapshots { backend: "linear" },
            Reason::NoVolumes { backend: "cow" },
            Reason::NoVolume { name: text() },
            Reason::OtherVolume,
            Reason::HoldEnded { limit_ms: 1 },
            Reason::NotLinear { backend: "log" },
            Reason::NoSnapshot { name: text() },
            Reason::SnapshotExists { name: text() },
            Reason::SnapshotLocked { name: text(), until_unix_ns: None },
            Reason::TooManySnapshots { limit: 1 },
            Reason::TooManyRollbacks { limit: 1 },
            Reason::InvalidSetting { name: "snapshot name", value: text(), rule: "" },
            Reason::UnknownMoment { moment: 2, last: 1 },
            Reason::Expired { moment: 1, earliest: 2 },
            Reason::Discarded { moment: 1, discarded_at: 2 },
            Reason::AppliedAlready { moment: 1, applied: 2 },
            Reason::ApplyStalled { why: "" },
            Reason::Poisoned,
            Reason::Closed,
            Reason::ReadOnly,
            Reason::MetadataDamaged,
            Reason::BlockDamaged { address: 0 },
            Reason::DeviceGone,
            Reason::Os { errno: libc::EIO },
            Reason::Os { errno: libc::EINVAL },
            Reason::Os { errno: libc::EBUSY },
            Reason::Os { errno: libc::ENOSPC },
        ];
        for reason in told {
            let (kind, name, text) = (reason.kind(), reason.name(), reason.to_string());
            let here = code_of(&Error::new("test", reason), Intent::Use);
            let there = Error::new("test", Reason::Told { kind, name, text });
            assert_eq!(code_of(&there, Intent::Use), here, "{there:?}");
        }
        let holder = text();
        assert_eq!(code_of(&Error::new("test", Reason::NotReachable { holder }), Intent::Use), Code::Refused);
        let missing = || Error::new("test", Reason::NotFound);
        assert_eq!(code_of(&missing(), Intent::Create), Code::Refused);
        assert_eq!(code_of(&missing(), Intent::Use), Code::Environment);
    }
}
