//! An operation of the API: its route, its handler and its documentation in one place.
//!
//! The router and the OpenAPI document are made from the same list, so neither can have a
//! route that the other lacks.

use std::collections::BTreeMap;

use axum::{
    handler::Handler,
    http::Method,
    routing::{self, MethodRouter},
};
use events::{Code, codes};
use mesh::IDEMPOTENCY_KEY_CHARS_MAX;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Content, ContentBuilder, HeaderBuilder, HttpMethod, Ref, RefOr, Required, Response,
        ResponseBuilder, Schema,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{
            AdditionalProperties, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
        },
    },
};

use crate::http::edge::Edge;

/// One operation: a method on a path.
pub(crate) struct Op {
    pub(crate) method: HttpMethod,
    pub(crate) path: &'static str,
    pub(crate) route: MethodRouter<Edge>,
    /// Whether a script of any web page may use it.
    pub(crate) open_to_scripts: bool,
    pub(crate) tag: &'static str,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) role: Option<&'static str>,
    /// Whether an operator may use it in place of an account with that role.
    pub(crate) for_operators_too: bool,
    pub(crate) token: bool,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) request: BTreeMap<&'static str, Content>,
    pub(crate) request_required: Required,
    pub(crate) responses: BTreeMap<u16, Response>,
    pub(crate) refusals: Vec<Code>,
    pub(crate) schemas: Vec<(String, RefOr<Schema>)>,
}

macro_rules! methods {
    ($($name:ident = $method:ident;)+) => {$(
        /// An operation of this method.
        pub(crate) fn $name<H: Handler<T, Edge>, T: 'static>(path: &'static str, handler: H) -> Self {
            Self::new(HttpMethod::$method, path, routing::$name(handler))
        }
    )+};
}

impl Op {
    methods! {
        get = Get;
        post = Post;
        put = Put;
        delete = Delete;
    }

    fn new(method: HttpMethod, path: &'static str, route: MethodRouter<Edge>) -> Self {
        let mut parameters = Vec::new();
        for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            parameters.push(parameter(ParameterIn::Path, name, "").schema(Some(uuid())).build());
        }
        let mut refusals = vec![
            codes::BAD_REQUEST,
            codes::ADDRESS_TOO_LONG,
            codes::HEADERS_TOO_LARGE,
            codes::UNAVAILABLE,
            codes::OVERLOADED,
            codes::TIMED_OUT,
            codes::INTERNAL,
        ];
        if !parameters.is_empty() {
            refusals.push(codes::NOT_FOUND);
        }
        Self {
            method,
            path,
            route,
            open_to_scripts: false,
            tag: "",
            id: "",
            summary: "",
            description: "",
            role: None,
            for_operators_too: false,
            token: false,
            parameters,
            request: BTreeMap::new(),
            request_required: Required::True,
            responses: BTreeMap::new(),
            refusals,
            schemas: Vec::new(),
        }
    }

    /// Its method, in the type that requests use.
    pub(crate) fn http_method(&self) -> Method {
        match self.method {
            HttpMethod::Get => Method::GET,
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Delete => Method::DELETE,
            _ => unreachable!("no operation has it"),
        }
    }

    /// Whether it reads any query parameter.
    pub(crate) fn has_query(&self) -> bool {
        let mut places = self.parameters.iter().map(|parameter| &parameter.parameter_in);
        places.any(|place| matches!(place, ParameterIn::Query))
    }

    /// Its tag, its id and what it does.
    pub(crate) fn named(
        mut self,
        tag: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        (self.tag, self.id, self.summary) = (tag, id, summary);
        self
    }

    /// What else a client should know.
    pub(crate) fn explained(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// A script of any web page may use it.
    pub(crate) fn open_to_scripts(mut self) -> Self {
        self.open_to_scripts = true;
        self
    }

    /// It needs an access token.
    pub(crate) fn token(mut self) -> Self {
        self.token = true;
        self.refuses(&[codes::UNAUTHENTICATED, codes::TOKEN_EXPIRED])
    }

    /// It needs an access token of an account with this role.
    pub(crate) fn role(mut self, role: &'static str) -> Self {
        self.role = Some(role);
        self.token().refuses(&[codes::FORBIDDEN])
    }

    /// It needs the role `organizer`; an operator may use it in an organizer's place.
    pub(crate) fn for_organizers(mut self) -> Self {
        self.for_operators_too = true;
        self.role("organizer")
    }

    /// It may be repeated with an `Idempotency-Key`.
    pub(crate) fn command(self) -> Self {
        let key = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(IDEMPOTENCY_KEY_CHARS_MAX))
            .pattern(Some("^[!-~]+$"));
        self.header_of(
            "Idempotency-Key",
            "1 to 255 visible ASCII characters. The same key with the same request, however it is \
             spelt, gives the stored answer; with another request it is refused. A key belongs to \
             its caller: before there is an account, to the address or the token in the body.",
            key,
        )
        .refuses(&[codes::INVALID, codes::IDEMPOTENCY_KEY_REUSED])
    }

    /// It reads an optional header.
    pub(crate) fn header(self, name: &str, meaning: &str) -> Self {
        self.header_of(name, meaning, ObjectBuilder::new().schema_type(Type::String))
    }

    fn header_of(mut self, name: &str, meaning: &str, schema: ObjectBuilder) -> Self {
        let header = parameter(ParameterIn::Header, name, meaning)
            .required(Required::False)
            .schema(Some(schema));
        self.parameters.push(header.build());
        self
    }

    /// It reads these query parameters, and refuses others.
    pub(crate) fn query<P: IntoParams>(mut self) -> Self {
        let mut parameters = P::into_params(|| Some(ParameterIn::Query));
        parameters.iter_mut().filter_map(|it| it.schema.as_mut()).for_each(never_null);
        self.parameters.extend(parameters);
        self.refuses(&[codes::INVALID])
    }

    /// A path parameter has this type instead of being an id.
    pub(crate) fn path_schema<T: ToSchema>(mut self, name: &str) -> Self {
        let schema = self.schema::<T>();
        for parameter in self.parameters.iter_mut().filter(|parameter| parameter.name == name) {
            parameter.schema = Some(schema.clone());
        }
        self
    }

    /// It takes a JSON body.
    pub(crate) fn takes<T: ToSchema + DeserializeOwned>(mut self, example: &str) -> Self {
        T::schemas(&mut self.schemas);
        let mut schema = T::schema();
        close(&mut schema);
        self.schemas.push((T::name().to_string(), schema));
        self.json_body(Ref::from_schema_name(T::name()).into(), checked::<T>(example))
    }

    /// It takes a JSON body without a field that the path has.
    pub(crate) fn takes_without<T: ToSchema + DeserializeOwned>(
        mut self,
        field: &str,
        example: &str,
    ) -> Self {
        T::schemas(&mut self.schemas);
        let mut schema = T::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.properties.remove(field);
            object.required.retain(|name| name != field);
        }
        close(&mut schema);
        let mut example = example_of(example);
        let mut complete = example.clone();
        complete[field] = Value::String(uuid::Uuid::nil().to_string());
        debug_assert!(serde_json::from_value::<T>(complete).is_ok(), "{}: {example}", self.path);
        self.json_body(schema, example.take())
    }

    fn json_body(mut self, schema: RefOr<Schema>, example: Value) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).example(Some(example));
        self.request.insert("application/json", content.build());
        self.refuses(&[
            codes::INVALID,
            codes::REQUEST_TOO_SLOW,
            codes::BODY_TOO_LARGE,
            codes::UNSUPPORTED_MEDIA_TYPE,
        ])
    }

    /// Its body may be left out.
    pub(crate) fn or_nothing(mut self) -> Self {
        self.request_required = Required::False;
        self
    }

    /// It takes a body of another content type as well.
    pub(crate) fn also_takes(mut self, content_type: &'static str, example: &str) -> Self {
        self.request.insert(content_type, text(example));
        self
    }

    /// The answer to a granted request.
    pub(crate) fn gives<T: ToSchema + DeserializeOwned>(
        mut self,
        status: u16,
        meaning: &str,
        example: &str,
    ) -> Self {
        let schema = self.schema::<T>();
        let content =
            ContentBuilder::new().schema(Some(schema)).example(Some(checked::<T>(example)));
        let mut response = ResponseBuilder::new()
            .description(meaning)
            .content("application/json", content.build());
        if status == 202 {
            response = response.header("Location", header("Where to follow what was started."));
        }
        self.responses.insert(status, response.build());
        self
    }

    /// It honours `Prefer: wait=N` and then answers with the outcome.
    pub(crate) fn waits<T: ToSchema + DeserializeOwned>(
        self,
        meaning: &str,
        example: &str,
    ) -> Self {
        let mut op = self
            .header("Prefer", "`wait=N`: answer with the outcome if it is known in N ≤ 30 seconds.")
            .gives::<T>(200, meaning, example);
        if let Some(response) = op.responses.get_mut(&200) {
            let applied = header("`wait=N`, as it was honoured.");
            response.headers.insert("Preference-Applied".to_owned(), applied.into());
        }
        op
    }

    /// The answer to a granted request is a stream of server-sent events.
    pub(crate) fn streams(mut self, example: &str) -> Self {
        let response = ResponseBuilder::new()
            .description("Events, until the client hangs up or the token runs out")
            .content("text/event-stream", text(example));
        self.responses.insert(200, response.build());
        self
    }

    /// A client that already has the answer gets a `304`.
    pub(crate) fn revalidates(self) -> Self {
        let mut op =
            self.header("If-None-Match", "The `ETag` of the answer that the client already has.");
        if let Some(response) = op.responses.get_mut(&200) {
            let tag = header("Names this answer; send it back as `If-None-Match`.");
            response.headers.insert("ETag".to_owned(), tag.into());
        }
        let unchanged = ResponseBuilder::new()
            .description("The answer that the client already has is still current");
        op.responses.insert(304, unchanged.build());
        op
    }

    /// The codes with which it may be refused.
    pub(crate) fn refuses(mut self, kinds: &[Code]) -> Self {
        for kind in kinds {
            if !self.refusals.contains(kind) {
                self.refusals.push(*kind);
            }
        }
        self
    }

    /// The pages of its answer list entries of this type, which no other answer contains.
    pub(crate) fn lists<T: ToSchema>(mut self) -> Self {
        self.schema::<T>();
        self
    }

    /// The schema of a type: by name, unless it is generic.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        let name = T::name();
        if name == "Page" || name == "Value" {
            return T::schema();
        }
        self.schemas.push((name.to_string(), T::schema()));
        Ref::from_schema_name(name).into()
    }
}

/// Closes an object: it takes no members but those it names.
fn close(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
}

/// A parameter is left out, or it has a value; in an address there is no `null`.
fn never_null(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = &types[..] {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
}

fn parameter(place: ParameterIn, name: &str, meaning: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::True)
        .description((!meaning.is_empty()).then_some(meaning))
}

fn uuid() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

/// A response header.
pub(crate) fn header(meaning: &str) -> utoipa::openapi::Header {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(schema)).description(Some(meaning)).build()
}

fn text(example: &str) -> Content {
    ContentBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .example(Some(Value::String(example.to_owned())))
        .build()
}

fn example_of(example: &str) -> Value {
    serde_json::from_str(example).expect("an example is JSON")
}

/// An example, which must parse as the type that it is an example of.
fn checked<T: DeserializeOwned>(example: &str) -> Value {
    debug_assert!(
        serde_json::from_str::<T>(example).is_ok(),
        "no {}: {example}",
        std::any::type_name::<T>()
    );
    example_of(example)
}
