//! Each operation once: its route, its handler, its documentation.
//!
//! The router and the OpenAPI document are made of the same list, so neither can know a
//! route that the other does not.

use std::collections::BTreeMap;

use axum::{
    handler::Handler,
    routing::{self, MethodRouter},
};
use events::{Code, Problem, codes};
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        ComponentsBuilder, Content, ContentBuilder, HeaderBuilder, HttpMethod, InfoBuilder,
        LicenseBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required,
        Response, ResponseBuilder, Schema,
        example::ExampleBuilder,
        path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use crate::Edge;

/// The name of the security scheme.
const BEARER: &str = "bearer";

/// One operation: a method on a path.
pub(crate) struct Op {
    pub(crate) method: HttpMethod,
    pub(crate) path: &'static str,
    pub(crate) route: MethodRouter<Edge>,
    /// Whether a script of any web page may use it.
    pub(crate) open_to_scripts: bool,
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    role: Option<&'static str>,
    token: bool,
    parameters: Vec<Parameter>,
    request: BTreeMap<&'static str, Content>,
    responses: BTreeMap<u16, Response>,
    refusals: Vec<Code>,
    schemas: Vec<(String, RefOr<Schema>)>,
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
        let mut refusals =
            vec![codes::UNAVAILABLE, codes::OVERLOADED, codes::TIMED_OUT, codes::INTERNAL];
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
            token: false,
            parameters,
            request: BTreeMap::new(),
            responses: BTreeMap::new(),
            refusals,
            schemas: Vec::new(),
        }
    }

    /// Where it belongs, what it is called, what it does.
    pub(crate) fn named(
        mut self,
        tag: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        (self.tag, self.id, self.summary) = (tag, id, summary);
        self
    }

    /// What else one should know.
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

    /// It may be repeated with an `Idempotency-Key`.
    pub(crate) fn command(self) -> Self {
        self.header(
            "Idempotency-Key",
            "1 to 255 visible ASCII characters. The same key with the same request gives the \
             stored answer; with another request it is refused.",
        )
        .refuses(&[codes::INVALID, codes::IDEMPOTENCY_KEY_REUSED])
    }

    /// It reads an optional header.
    pub(crate) fn header(mut self, name: &str, meaning: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let header = parameter(ParameterIn::Header, name, meaning)
            .required(Required::False)
            .schema(Some(schema));
        self.parameters.push(header.build());
        self
    }

    /// It reads these query parameters, and refuses others.
    pub(crate) fn query<P: IntoParams>(mut self) -> Self {
        self.parameters.extend(P::into_params(|| Some(ParameterIn::Query)));
        self.refuses(&[codes::BAD_REQUEST, codes::INVALID])
    }

    /// A path parameter is one of these instead of an id.
    pub(crate) fn path_schema<T: ToSchema>(mut self, name: &str) -> Self {
        let schema = self.schema::<T>();
        for parameter in self.parameters.iter_mut().filter(|parameter| parameter.name == name) {
            parameter.schema = Some(schema.clone());
        }
        self
    }

    /// It takes a JSON body.
    pub(crate) fn takes<T: ToSchema + DeserializeOwned>(mut self, example: &str) -> Self {
        let schema = self.schema::<T>();
        self.json_body(schema, checked::<T>(example))
    }

    /// It takes a JSON body in which a field is missing, because the path has it.
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
            codes::BAD_REQUEST,
            codes::INVALID,
            codes::BODY_TOO_LARGE,
            codes::UNSUPPORTED_MEDIA_TYPE,
        ])
    }

    /// It takes a body of another content type as well.
    pub(crate) fn also_takes(mut self, content_type: &'static str, example: &str) -> Self {
        self.request.insert(content_type, text(example));
        self
    }

    /// What a granted request is answered with.
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
            response = response.header("Location", header("Where to follow what was begun."));
        }
        self.responses.insert(status, response.build());
        self
    }

    /// It honours `Prefer: wait=N`, and is answered with the outcome then.
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

    /// What a granted request is answered with is a stream of server-sent events.
    pub(crate) fn streams(mut self, example: &str) -> Self {
        let response = ResponseBuilder::new()
            .description("Events, until the client hangs up or the token runs out")
            .content("text/event-stream", text(example));
        self.responses.insert(200, response.build());
        self
    }

    /// How it may be refused.
    pub(crate) fn refuses(mut self, kinds: &[Code]) -> Self {
        for kind in kinds {
            if !self.refusals.contains(kind) {
                self.refusals.push(*kind);
            }
        }
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

    fn item(&self) -> PathItem {
        let mut operation = OperationBuilder::new()
            .tag(self.tag)
            .operation_id(Some(self.id))
            .summary(Some(self.summary))
            .parameters((!self.parameters.is_empty()).then(|| self.parameters.clone()));
        let needs = self.role.map(|role| format!("Needs the role `{role}`. "));
        let description = format!("{}{}", needs.unwrap_or_default(), self.description);
        if !description.is_empty() {
            operation = operation.description(Some(description.trim_end()));
        }
        if self.token {
            let none: [String; 0] = [];
            operation = operation.security(SecurityRequirement::new(BEARER, none));
        }
        if !self.request.is_empty() {
            let mut body = RequestBodyBuilder::new().required(Some(Required::True));
            for (content_type, content) in &self.request {
                body = body.content(*content_type, content.clone());
            }
            operation = operation.request_body(Some(body.build()));
        }
        for (status, response) in &self.responses {
            operation = operation.response(status.to_string(), response.clone());
        }
        for (status, response) in refusals(&self.refusals) {
            operation = operation.response(status.to_string(), response);
        }
        PathItem::new(self.method.clone(), operation)
    }
}

/// One response for each status, with an example for each code.
fn refusals(kinds: &[Code]) -> BTreeMap<u16, Response> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for kind in kinds {
        by_status.entry(kind.status).or_default().push(*kind);
    }
    let response = |kinds: &Vec<Code>| {
        let meaning: Vec<String> =
            kinds.iter().map(|kind| format!("`{}`: {}", kind.code, kind.title)).collect();
        let examples = kinds.iter().map(|kind| {
            let problem = serde_json::to_value(Problem::from(*kind)).ok();
            (kind.code, ExampleBuilder::new().summary(kind.title).value(problem).build())
        });
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .examples_from_iter(examples);
        let mut response = ResponseBuilder::new()
            .description(meaning.join("\n\n"))
            .content("application/problem+json", content.build());
        if kinds.iter().any(|kind| [429, 503].contains(&kind.status)) {
            response = response.header("Retry-After", header("Seconds to wait."));
        }
        response.build()
    };
    by_status.iter().map(|(status, kinds)| (*status, response(kinds))).collect()
}

/// The document of these operations.
pub(crate) fn document(ops: &[Op]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components =
        ComponentsBuilder::new().schema("Problem", <Problem as utoipa::PartialSchema>::schema());
    for op in ops {
        paths = paths.path(op.path, op.item());
        components = components.schemas_from_iter(op.schemas.clone());
    }
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The `access_token` of a session; an EdDSA JWT."))
        .build();
    let info = InfoBuilder::new()
        .title("Onsale")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths.build())
        .components(Some(components.security_scheme(BEARER, SecurityScheme::Http(scheme)).build()))
        .build()
}

const ABOUT: &str = "Concert seats, sold when far more people want them than there are seats.\n\n\
Money is an integer amount of points. Ids are UUIDv7. Times are RFC 3339 in UTC. A refusal is \
`application/problem+json` with a stable `code`: match on that. Lists are newest first; give \
`next_cursor` back as `?cursor=` for the next page.";

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

fn header(meaning: &str) -> utoipa::openapi::Header {
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

/// An example, which must be readable as what it is an example of.
fn checked<T: DeserializeOwned>(example: &str) -> Value {
    debug_assert!(
        serde_json::from_str::<T>(example).is_ok(),
        "no {}: {example}",
        std::any::type_name::<T>()
    );
    example_of(example)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    fn rendered() -> Value {
        serde_json::to_value(document(&ops())).unwrap()
    }

    #[test]
    fn every_route_of_the_api_is_documented() {
        let document = rendered();
        assert_eq!(document["openapi"], "3.1.0");
        for (method, path) in [
            ("post", "/v1/users"),
            ("post", "/v1/sessions"),
            ("post", "/v1/sessions/refresh"),
            ("delete", "/v1/users/me"),
            ("put", "/v1/users/{id}/roles/{role}"),
            ("get", "/.well-known/jwks.json"),
            ("get", "/v1/concerts"),
            ("post", "/v1/concerts"),
            ("get", "/v1/concerts/{id}"),
            ("get", "/v1/concerts/{id}/schedules"),
            ("post", "/v1/concerts/{id}/schedules"),
            ("delete", "/v1/schedules/{id}"),
            ("get", "/v1/schedules/{id}/seats"),
            ("post", "/v1/schedules/{id}/queue"),
            ("get", "/v1/schedules/{id}/queue/me"),
            ("delete", "/v1/schedules/{id}/queue/me"),
            ("get", "/v1/schedules/{id}/queue/me/events"),
            ("post", "/v1/reservations"),
            ("get", "/v1/reservations"),
            ("get", "/v1/reservations/{id}"),
            ("delete", "/v1/reservations/{id}"),
            ("post", "/v1/points/charges"),
            ("get", "/v1/points/balance"),
            ("get", "/v1/points/entries"),
            ("post", "/v1/payments"),
            ("get", "/v1/payments"),
            ("get", "/v1/payments/{id}"),
            ("get", "/v1/me/events"),
        ] {
            assert!(document["paths"][path][method]["operationId"].is_string(), "{method} {path}");
        }
    }

    #[test]
    fn every_operation_says_how_it_may_be_refused() {
        for op in ops() {
            assert!(
                !op.tag.is_empty() && !op.id.is_empty() && !op.summary.is_empty(),
                "{}",
                op.path
            );
            assert!(!op.responses.is_empty(), "{}", op.path);
            assert!(op.refusals.contains(&codes::UNAVAILABLE), "{}", op.path);
            assert_eq!(
                op.token,
                op.refusals.contains(&codes::TOKEN_EXPIRED) && op.id != "refreshSession"
            );
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut ids: Vec<_> = ops().iter().map(|op| op.id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        found.push(reference.clone());
                    }
                    object.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = rendered();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn what_the_path_has_is_not_asked_for_in_the_body() {
        let document = rendered();
        let operation = &document["paths"]["/v1/concerts/{id}/schedules"]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(schema["properties"]["seat_plan"].is_object());
        assert!(schema["properties"]["concert_id"].is_null());
        assert!(operation["requestBody"]["content"]["text/csv"].is_object());
    }

    #[test]
    fn the_token_is_asked_for_where_it_is_needed() {
        let document = rendered();
        assert_eq!(document["components"]["securitySchemes"][BEARER]["scheme"], "bearer");
        let pay = &document["paths"]["/v1/payments"]["post"];
        assert_eq!(pay["security"][0][BEARER], serde_json::json!([]));
        assert!(pay["responses"]["401"]["content"]["application/problem+json"].is_object());
        assert!(document["paths"]["/v1/concerts"]["get"]["security"].is_null());
    }
}
