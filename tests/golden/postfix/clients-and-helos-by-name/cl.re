/^(dsl|dyn)[-.].*\.isp\.example$/ 550 5.7.1 dynamic
/^unknown$/ DUNNO
/pool.*\.net$/ REJECT
