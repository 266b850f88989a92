//! What a program decides about its clients of the JSON dialect: who subscribes to what, and what becomes of what they
//! publish.

use std::borrow::Cow;

use super::{
    Close, Context, Message, TopicName,
    dialect::{Content, ErrorCode},
};

/// Stands between one client of the JSON dialect and the topics: `Builder::json_route` makes one for each connection, so
/// its fields are the connection's own data. The dialect itself, history and recovery included, is the server's.
///
/// ```
/// use stentor::{
///     server::Server,
///     session::{Context, Denied, Guard, Message, TopicName, dialect::{Content, ErrorCode}, text},
/// };
///
/// /// Whoever comes may read the news, and write under a name.
/// struct Author {
///     name: String,
/// }
///
/// impl Guard for Author {
///     fn subscribe(&mut self, _: &mut Context<'_>, topic: &TopicName) -> Result<(), Denied> {
///         match topic.as_str() {
///             "news" => Ok(()),
///             _ => Err(Denied::new(ErrorCode::PermissionDenied, "only the news are read here")),
///         }
///     }
///
///     fn publish(
///         &mut self,
///         _: &mut Context<'_>,
///         _: &TopicName,
///         content: &Content<'_>,
///     ) -> Result<Message<'static>, Denied> {
///         match content {
///             Content::Text(words) if words.len() <= 1000 => Ok(text(&format!("{}: {words}", self.name))),
///             _ => Err(Denied::new(ErrorCode::Own(1000), "news are texts of at most 1,000 bytes")),
///         }
///     }
/// }
///
/// let server = Server::builder()
///     .listen(([127, 0, 0, 1], 0))
///     .json_route("/ws/{name}", |opening| Ok(Author { name: opening.parameter("name").to_owned() }))
///     .start()
///     .expect("a free port");
/// # drop(server);
/// ```
pub trait Guard {
    /// The client asks for a topic. Offsets, history and what was missed are seen to where it may have it. Where a backend
    /// asks for it (`POST /api/subscribe`) nobody here is asked.
    ///
    /// # Errors
    /// The client is told so.
    fn subscribe(&mut self, context: &mut Context<'_>, topic: &TopicName) -> Result<(), Denied> {
        let _ = (context, topic);
        Ok(())
    }

    /// The client asks to publish something to a topic. What is returned is published there in its place, and the client
    /// is told under which offset.
    ///
    /// # Errors
    /// Nothing is published, and the client is told so.
    fn publish(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        content: &Content<'_>,
    ) -> Result<Message<'static>, Denied> {
        let _ = (context, topic);
        Ok(content.message())
    }

    /// The connection is over. What is to be said about it goes through a `ServerHandle`.
    fn close(&mut self, close: &Close<'_>) {
        let _ = close;
    }
}

/// No guard: whoever is connected may do everything.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unguarded;

impl Guard for Unguarded {}

/// Why a client's command is not carried out.
///
/// ```
/// use stentor::session::{Denied, dialect::ErrorCode};
///
/// let denied = Denied::new(ErrorCode::Own(1001), "you have to say who you are first");
/// assert_eq!(denied.code.number(), 1001);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// For programs: the page may have words of its own for it.
    pub code: ErrorCode,
    /// For people: what to do.
    pub message: Cow<'static, str>,
}

impl Denied {
    /// With the code and the text that the client gets.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Denied {
        Denied { code, message: message.into() }
    }
}
