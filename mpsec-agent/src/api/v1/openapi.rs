//! Makes docs/openapi.json from the table of resources and the types that answers consist of.

use axum::http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::query::Parameter;
use super::{DOCUMENT_PATH, RESOURCES, Resource};
use crate::snapshot::mptcp::TcpState;

/// The whole document.
pub(super) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> =
        RESOURCES.iter().map(|resource| (resource.path.to_owned(), path(resource, &mut generator))).collect();
    generator.subschema_for::<Problem>();
    paths.insert(DOCUMENT_PATH.to_owned(), own_path());
    let mut schemas = Value::Object(generator.take_definitions(true));
    plain_words(&mut schemas);
    let description = "What MPSec knows of this host's MPTCP connections, paths and interfaces. Everything is read-only and \
                       of one moment; what this kernel does not tell is null. Whoever may read /metrics may read this.";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "MPSec",
            "version": "1",
            "description": description,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "responses": responses()},
    })
}

fn path(resource: &Resource, generator: &mut SchemaGenerator) -> Value {
    let parameters: Vec<Value> = resource.parameters.iter().copied().map(parameter).collect();
    let name = resource.path.rsplit('/').next().unwrap_or_default();
    let schema = (resource.schema)(generator);
    json!({"get": {
        "operationId": name,
        "summary": resource.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The moment's answer", "content": {"application/json": {"schema": schema}}},
            "400": {"$ref": "#/components/responses/BadRequest"},
            "500": {"$ref": "#/components/responses/Failed"},
            "503": {"$ref": "#/components/responses/NotReady"},
        },
    }})
}

fn own_path() -> Value {
    json!({"get": {
        "operationId": "openapi",
        "summary": "This document",
        "parameters": [],
        "responses": {
            "200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
            "400": {"$ref": "#/components/responses/BadRequest"},
        },
    }})
}

fn parameter(parameter: Parameter) -> Value {
    let (description, schema) = match parameter {
        Parameter::Netns => {
            ("Only this network namespace; the agent's own has an empty name.", json!({"type": "string"}))
        }
        Parameter::Interface => ("Only what uses this interface.", json!({"type": "string"})),
        Parameter::State => {
            ("Only connections in this state.", json!({"type": "string", "enum": TcpState::ALL.map(TcpState::name)}))
        }
        Parameter::Limit => (
            "So many connections at most.",
            json!({"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000}),
        ),
        Parameter::Offset => {
            ("So many connections are passed over first.", json!({"type": "integer", "minimum": 0, "default": 0}))
        }
    };
    json!({"name": parameter.name(), "in": "query", "description": description, "schema": schema})
}

fn responses() -> Value {
    let problem = |status: StatusCode, description: &str| {
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        assert!(status.canonical_reason().is_some());
        json!({"description": description, "content": {"application/problem+json": {"schema": schema}}})
    };
    json!({
        "BadRequest": problem(StatusCode::BAD_REQUEST, "A query parameter is unknown, given twice or no value"),
        "Failed": problem(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be made"),
        "NotReady": problem(StatusCode::SERVICE_UNAVAILABLE, "The agent is starting or stopping"),
    })
}

/// Descriptions come from the types' documentation: its links are of no use outside it.
fn plain_words(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`").replace("`None`", "null").replace('\n', " ");
                    }
                    member => plain_words(member),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(plain_words),
        _ => {}
    }
}
