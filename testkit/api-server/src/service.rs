//! HTTP: the faults, then the store, then the answer.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use http::{Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use kube::client::Body;
use serde_json::{Value, json};

use crate::{
    fault::Fault,
    request::{Request, Verb},
    selection::Selection,
    server::{ApiServer, lock},
    store::Refusal,
    watch,
};

/// The connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError;

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection to the API server broke")
    }
}

impl std::error::Error for ConnectionError {}

/// The body of an answer: whole, or the events of a watch.
pub struct Answer(BoxStream<'static, Bytes>);

impl Answer {
    fn whole(object: &Value) -> Self {
        let bytes = Bytes::from(object.to_string());
        Self(futures::stream::once(async { bytes }).boxed())
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0)
            .poll_next(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

type Answered = Result<Response<Answer>, ConnectionError>;

impl tower_service::Service<http::Request<Body>> for ApiServer {
    type Response = Response<Answer>;
    type Error = ConnectionError;
    type Future = BoxFuture<'static, Answered>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(|_| ConnectionError)?;
            match Request::read(&head, &body) {
                Ok(request) => server.take(request).await,
                Err(message) => Ok(refuse(
                    &Refusal {
                        code: 400,
                        reason: "BadRequest",
                        message,
                    },
                    None,
                )),
            }
        })
    }
}

impl ApiServer {
    async fn take(self, request: Request) -> Answered {
        let mut fate = None;
        for fault in self.receive(&request) {
            match fault {
                Fault::Hook(hook) => hook.run(&request),
                fault => fate = fate.or(Some(fault)),
            }
        }
        match fate {
            None | Some(Fault::Hook(_)) => Ok(self.answer(&request)),
            Some(Fault::SlowAnswer(delay)) => {
                let answer = self.answer(&request);
                tokio::time::sleep(delay).await;
                Ok(answer)
            }
            Some(Fault::SlowRequest(delay)) => self.answer_after(request, tokio::time::sleep(delay)).await,
            Some(Fault::Held(held)) => self.answer_after(request, held.released()).await,
            Some(Fault::SilenceBefore) => futures::future::pending().await,
            Some(Fault::SilenceAfter) => {
                drop(self.answer(&request));
                futures::future::pending().await
            }
            Some(Fault::DisconnectBefore) => Err(ConnectionError),
            Some(Fault::DisconnectAfter) => {
                drop(self.answer(&request));
                Err(ConnectionError)
            }
            Some(Fault::Refuse { code, retry_after }) => {
                let reason = reason(code);
                let message = format!("scripted: {reason}");
                Ok(refuse(&Refusal { code, reason, message }, retry_after))
            }
        }
    }

    /// In a task of its own: what is on its way reaches the server also when the client gives up.
    async fn answer_after(self, request: Request, wait: impl Future<Output = ()> + Send + 'static) -> Answered {
        let carried_out = tokio::spawn(async move {
            wait.await;
            self.answer(&request)
        });
        carried_out.await.map_err(|_| ConnectionError)
    }

    fn answer(&self, request: &Request) -> Response<Answer> {
        match request.verb {
            Verb::Watch => {
                let events = watch::open(&self.store, self.changed.subscribe(), request);
                respond(200, Answer(events.boxed()), None)
            }
            Verb::List => respond(200, Answer::whole(&self.list_of(request)), None),
            _ => {
                let outcome = lock(&self.store).carry_out(request);
                self.changed.send_replace(());
                match outcome {
                    Ok((code, object)) if request.metadata_only && object["kind"] != "Status" => {
                        respond(code, Answer::whole(&watch::metadata_of(&object)), None)
                    }
                    Ok((code, object)) => respond(code, Answer::whole(&object), None),
                    Err(refusal) => refuse(&refusal, None),
                }
            }
        }
    }

    /// One page, if the request has a `limit`. A real server shows all pages at the version of the first; here a later page shows what there
    /// is now, and a watch from that version repeats what has changed since.
    fn list_of(&self, request: &Request) -> Value {
        let selection = Selection::of(request);
        let store = lock(&self.store);
        let limit = request
            .query
            .get("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(usize::MAX);
        let (version, skip) = match request.query.get("continue").and_then(|token| token.split_once('/')) {
            Some((version, skip)) => (version.to_owned(), skip.parse().unwrap_or(0)),
            None => (store.version.to_string(), 0),
        };
        let mut objects = store.select(&selection).skip(skip);
        let page: Vec<_> = objects.by_ref().take(limit).collect();
        let rest = objects.count();
        let (kind, api_version, items): (_, _, Vec<Value>) = if request.metadata_only {
            let items = page.into_iter().map(watch::metadata_of).collect();
            ("PartialObjectMetadataList", "meta.k8s.io/v1", items)
        } else {
            ("List", "v1", page.into_iter().cloned().collect())
        };
        let mut metadata = json!({"resourceVersion": version});
        if rest > 0 {
            metadata["continue"] = json!(format!("{version}/{}", skip + limit));
            metadata["remainingItemCount"] = json!(rest);
        }
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})
    }
}

fn refuse(refusal: &Refusal, retry_after: Option<u32>) -> Response<Answer> {
    let Refusal { code, reason, message } = refusal;
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    if let Some(seconds) = retry_after {
        status["details"] = json!({"retryAfterSeconds": seconds});
    }
    respond(*code, Answer::whole(&status), retry_after)
}

fn respond(code: u16, answer: Answer, retry_after: Option<u32>) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}

const fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    }
}
