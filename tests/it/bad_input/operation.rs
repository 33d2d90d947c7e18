//! The operations of the API, as the OpenAPI document describes them.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Map, Value};

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// `operationId`.
    pub id: String,
    /// Its method.
    pub method: Method,
    /// Its path, with `{names}`.
    pub path: String,
    /// Whether it needs an access token.
    pub token: bool,
    /// The first role that is enough, when it needs one.
    pub role: Option<String>,
    /// Every role that is enough.
    pub roles: Vec<String>,
    /// Whether it answers with a stream of events.
    pub streams: bool,
    /// Whether a script on any web page may read its answers.
    pub is_open: bool,
    /// Its body, when it takes one.
    pub body: Option<Body>,
    /// The codes that it may be refused with, each with its status.
    pub codes: BTreeMap<String, u16>,
    query: Vec<String>,
    headers: Vec<String>,
}

/// A JSON body.
#[derive(Debug, Clone)]
pub struct Body {
    /// Whether it may not be left out.
    pub required: bool,
    /// A correct body.
    pub example: Value,
    /// Whether it may also be `text/csv`, and large.
    pub takes_csv: bool,
    /// The required fields.
    pub needed: Vec<String>,
    /// Each field and its type.
    pub fields: Vec<(String, String)>,
}

impl Operation {
    /// Whether it reads this query parameter.
    pub fn asks(&self, name: &str) -> bool {
        self.query.iter().any(|known| known == name)
    }

    /// Whether it reads this header.
    pub fn reads(&self, header: &str) -> bool {
        self.headers.iter().any(|known| known.eq_ignore_ascii_case(header))
    }
}

/// Every operation of the document.
pub fn all() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&gateway::openapi_json()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let each = |(path, item): (&String, &Value)| -> Vec<Operation> {
        let methods = item.as_object().expect("methods of a path");
        let read = |(method, operation): (&String, &Value)| {
            let method = method.to_uppercase().parse().expect("a method");
            operation_of(&document, path, method, operation)
        };
        methods.iter().map(read).collect()
    };
    paths.iter().flat_map(each).collect()
}

fn operation_of(document: &Value, path: &str, method: Method, operation: &Value) -> Operation {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let named = |place: &str| -> Vec<String> {
        let of_place = parameters.iter().filter(|parameter| parameter["in"] == place);
        of_place.map(|parameter| text(&parameter["name"])).collect()
    };
    let description = operation["description"].as_str().unwrap_or_default();
    let needs = description.strip_prefix("Needs the role ").and_then(|rest| rest.split('.').next());
    let roles: Vec<String> = needs
        .into_iter()
        .flat_map(|it| it.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    let content = operation["requestBody"]["content"].as_object();
    Operation {
        id: text(&operation["operationId"]),
        method,
        path: path.to_owned(),
        token: operation["security"].is_array(),
        role: roles.first().cloned(),
        roles,
        streams: operation["responses"]["200"]["content"]["text/event-stream"].is_object(),
        is_open: operation["responses"]["200"]["headers"]["Access-Control-Allow-Origin"]
            .is_object(),
        body: content.map(|content| body_of(document, &operation["requestBody"], content)),
        codes: codes_of(operation),
        query: named("query"),
        headers: named("header"),
    }
}

fn body_of(document: &Value, body: &Value, content: &Map<String, Value>) -> Body {
    let json = &content["application/json"];
    let schema = resolved(document, &json["schema"]);
    let needed = schema["required"].as_array().cloned().unwrap_or_default();
    let fields = schema["properties"].as_object().expect("fields");
    Body {
        required: body["required"] == true,
        example: json["example"].clone(),
        takes_csv: content.contains_key("text/csv"),
        needed: needed.iter().map(text).collect(),
        fields: fields.iter().map(|(name, of)| (name.clone(), kind_of(document, of))).collect(),
    }
}

/// `string`, `integer`, `array` or `object`, also where it may be null.
fn kind_of(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let one_of = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    match (&schema["type"], one_of) {
        (Value::String(kind), _) => kind.clone(),
        (Value::Array(kinds), _) => text(kinds.iter().find(|kind| *kind != "null").expect("one")),
        (_, Some(kinds)) => {
            let kind = kinds.iter().find(|kind| kind["type"] != "null").expect("one");
            kind_of(document, kind)
        }
        _ => panic!("a field of what type? {schema}"),
    }
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("a reference inside the document");
            resolved(document, document.pointer(pointer).expect("what is referred to"))
        }
        None => schema,
    }
}

fn codes_of(operation: &Value) -> BTreeMap<String, u16> {
    let mut codes = BTreeMap::new();
    for (status, response) in operation["responses"].as_object().expect("responses") {
        let problems = &response["content"]["application/problem+json"]["examples"];
        for code in problems.as_object().into_iter().flat_map(Map::keys) {
            codes.insert(code.clone(), status.parse().expect("a status"));
        }
    }
    codes
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
