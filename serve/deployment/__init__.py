"""The Ray Serve application: gateways, pools of engine replicas, and the environment that Ray needs."""
