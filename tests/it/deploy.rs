//! What is in `deploy/`: rules and dashboards ask for metrics that the program exports, each says
//! what to do, and the real Prometheus answers them.

mod alerts;
mod dashboards;
mod live;
mod queries;
