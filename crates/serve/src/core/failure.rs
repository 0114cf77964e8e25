use skipstone::{Error, Kind};

/// Why work was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What was asked for has no meaning: the message is for the one who asked.
    Refused(String),
    /// There is no such thing.
    Missing(String),
    /// The numbers left what floats can hold: the model and the options do not go together.
    NotFinite(String),
    /// Too much of this is being done already.
    Busy,
    /// Cancelled by the service itself: it is going down.
    ShuttingDown,
    /// Our fault; the message is for the log alone.
    Internal(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            // Never the path: what lies where is nobody's business.
            Kind::InvalidArgument | Kind::InvalidData | Kind::Unsupported | Kind::NotFound => {
                Self::Refused(error.message().to_owned())
            }
            Kind::NonFinite => Self::NotFinite(error.message().to_owned()),
            _ => Self::Internal(error.to_string()),
        }
    }
}
